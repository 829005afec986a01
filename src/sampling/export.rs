//! The selected rows of a table with all their columns, and the list that a downloader walks through.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::table::{Column, Coordinates, Field, Kind, Table, Writer};
use crate::data::export::Replace;

/// Copies rows (ascending) to one or more files, each in the format that its extension names.
pub fn write_rows(table: &Table, rows: &[u32], outs: &[PathBuf]) -> Result<()> {
    let coordinates = Coordinates::find(table)?;
    let own: Vec<usize> = (0..table.fields.len()).filter(|&i| table.fields[i].kind != Kind::Geometry).collect();
    let mut fields: Vec<Field> = own.iter().map(|&i| table.fields[i].clone()).collect();
    fields.push(Field::new("geometry", Kind::Geometry));
    let mut writers = outs.iter().map(|out| Writer::create(out, fields.clone())).collect::<Result<Vec<_>>>()?;
    let first_own = coordinates.columns().len();
    let wanted: Vec<usize> = coordinates.columns().into_iter().chain(own).collect();
    let mut rows = rows.iter().copied().peekable();
    // Small batches come together in one piece, so that a sample is few row groups.
    let mut pending: Vec<Column> = Vec::new();
    table.read(&wanted, &mut |batch| {
        let mut keep = vec![false; batch.rows];
        let mut places = Vec::new();
        while let Some(row) = rows.next_if(|&r| (r as usize) < batch.first_row + batch.rows) {
            let row = row as usize - batch.first_row;
            keep[row] = true;
            places.push(Some(coordinates.at(table, &batch, row)?));
        }
        if places.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<Column> = batch.columns[first_own..].iter().map(|c| c.select(&keep)).collect();
        columns.push(Column::Geometry(places));
        append(&mut pending, columns);
        if pending[0].len() >= super::table::BATCH_ROWS {
            flush(&mut writers, &mut pending)?;
        }
        Ok(())
    })?;
    flush(&mut writers, &mut pending)?;
    writers.into_iter().try_for_each(Writer::finish)
}

fn append(pending: &mut Vec<Column>, columns: Vec<Column>) {
    if pending.is_empty() {
        *pending = columns;
        return;
    }
    for (to, from) in pending.iter_mut().zip(columns) {
        match (to, from) {
            (Column::Int(a), Column::Int(b)) => a.extend(b),
            (Column::Float(a), Column::Float(b)) => a.extend(b),
            (Column::Text(a), Column::Text(b)) => a.extend(b),
            (Column::Geometry(a), Column::Geometry(b)) => a.extend(b),
            _ => unreachable!("batches of one table have the same kinds"),
        }
    }
}

fn flush(writers: &mut [Writer], pending: &mut Vec<Column>) -> Result<()> {
    writers.iter_mut().try_for_each(|w| w.write(pending))?;
    pending.clear();
    Ok(())
}

const FETCH: [&str; 4] = ["parquet_url", "parquet_row", "grid_cell", "product_id"];

/// The columns that a fetch list needs; an error where the table lacks one.
pub fn fetch_columns(table: &Table) -> Result<Vec<usize>> {
    let found = FETCH.iter().map(|n| table.require(n)).collect::<Result<Vec<_>>>();
    found.context("a fetch list needs the columns of Major TOM's metadata: annotate its metadata.parquet instead of the bare grid")
}

/// Writes `parquet_url,parquet_row,grid_cell,product_id` of the rows (ascending), by file and row: each file is opened once.
pub fn write_fetch_list(table: &Table, rows: &[u32], out: &Path) -> Result<()> {
    let wanted = fetch_columns(table)?;
    let mut rows = rows.iter().copied().peekable();
    let mut lines: Vec<(String, i64, String, String)> = Vec::new();
    table.read(&wanted, &mut |batch| {
        while let Some(row) = rows.next_if(|&r| (r as usize) < batch.first_row + batch.rows) {
            let row = row as usize - batch.first_row;
            let number = batch.columns[1].number(row);
            let number =
                number.with_context(|| format!("{}: no row number", table.place(batch.first_row + row, FETCH[1])))?;
            let text = |k: usize| batch.columns[k].text(row);
            lines.push((text(0), number as i64, text(2), text(3)));
        }
        Ok(())
    })?;
    lines.sort();
    let mut csv = csv::Writer::from_writer(Replace::create(out)?);
    csv.write_record(FETCH)?;
    for (url, row, cell, product) in &lines {
        csv.write_record([url, &row.to_string(), cell, product])?;
    }
    Ok(csv.into_inner().map_err(|e| e.into_error()).with_context(|| out.display().to_string())?.finish()?)
}
